"""All rules, in the order of their ids."""

from __future__ import annotations

from nbutils.preflight.lints import (
    cell_order,
    clip_scaled,
    constant_loss,
    dead_code,
    dead_knob,
    debug_gate,
    detached_term,
    dummy_data,
    eval_mode,
    executed_order,
    foreign_load,
    forward_layers,
    graph_kept,
    installs,
    late_save,
    literals,
    outside_loop,
    personal_path,
    prompts,
    redefined,
    schedule_order,
    secret_keys,
    swallowed,
    syntax_errors,
    unbound,
    validation_grad,
    zero_grad,
)
from nbutils.preflight.lints.rule import Rule

__all__ = ["RULES"]

_MODULES = (
    dead_knob,
    literals,
    clip_scaled,
    constant_loss,
    debug_gate,
    detached_term,
    dummy_data,
    eval_mode,
    foreign_load,
    graph_kept,
    installs,
    late_save,
    forward_layers,
    outside_loop,
    personal_path,
    prompts,
    schedule_order,
    secret_keys,
    swallowed,
    syntax_errors,
    unbound,
    dead_code,
    validation_grad,
    zero_grad,
    redefined,
    executed_order,
    cell_order,
)

RULES: tuple[Rule, ...] = tuple(
    sorted((module.RULE for module in _MODULES), key=lambda rule: rule.id)
)
