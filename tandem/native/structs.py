"""The structs of `model.h`, `linear.h` and `team.h`, which `library` compares with the kernels'."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p


class Team(Structure):
    _fields_ = (("parallel", c_void_p), ("num_threads", c_int64))


class Linear(Structure):
    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("n", c_int64),
        ("depth", c_int64),
        ("bits", c_int64),
        ("by_tiles", c_int64),
    )


class Layer(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qkv", Linear),
        ("output", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("window", c_int64),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class Model(Structure):
    _fields_ = (
        ("hidden_size", c_int64),
        ("inner_size", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
        ("eps", c_float),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("final_norm", c_void_p),
        ("lm_head", Linear),
        ("layers", c_void_p),
        ("has_int8_kv", c_int64),
        ("by_tiles", c_int64),
    )


class Step(Structure):
    _fields_ = (
        ("team", Team),
        ("num_rows", c_int64),
        ("num_sequences", c_int64),
        ("rows", c_void_p),
        ("starts", c_void_p),
        ("tables", c_void_p),
        ("table_width", c_int64),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("hidden", c_void_p),
        ("normed", c_void_p),
        ("qkv", c_void_p),
        ("queries", c_void_p),
        ("attended", c_void_p),
        ("inner", c_void_p),
    )


ALL = (Team, Linear, Layer, Model, Step)
