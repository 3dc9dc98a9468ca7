"""`tandem doctor`: what this machine has, whether `tandem up` would work on it, and how.

`probe` looks (thin, no judgement) and fills in a `Machine`; `diagnosis` judges (pure); `report`
prints.
"""
