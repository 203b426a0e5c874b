"""Run notebooks and jobs from outside a notebook."""
