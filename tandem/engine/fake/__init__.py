"""The mock GPU: moves real KV bytes, takes a modelled time, computes nothing. numpy only."""
