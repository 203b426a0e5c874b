"""What a person sees: the wizard, the live panel, a run rebuilt from disk."""
