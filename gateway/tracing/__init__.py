"""Traces of requests: what is traced (`trace.py`), the spans of it (`spans.py`, pure), and their
way to a collector (`otlp.py`, which alone needs OpenTelemetry)."""
