"""Environments: one name space over gymnax, EnvPool, Brax, Gymnasium and Operant's own worlds.

Light to import: adapters, and the libraries behind them, are loaded when an environment is made.
"""

from __future__ import annotations

from operant.envs.registry import EnvInfo, info, make, names, register

__all__ = ["EnvInfo", "info", "make", "names", "register"]
