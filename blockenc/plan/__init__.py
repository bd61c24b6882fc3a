"""Plans: what a scheme and a key compile to, and what backends apply.

plan: the plan itself; algebra: plans put together and undone; compilation: from schemes and keys; packing:
the form that enters graphs and GPUs. Backends know nothing of steps and keys.
"""

from blockenc.plan.packing import BYTE_VALUES, DECIMAL_VALUES
from blockenc.plan.plan import Plan

__all__ = ["BYTE_VALUES", "DECIMAL_VALUES", "Plan"]
