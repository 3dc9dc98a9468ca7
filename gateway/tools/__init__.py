"""Tools: functions that a model may call, and how models write their calls."""
