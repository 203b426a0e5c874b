"""Parts of the wizard's pages that look things up when someone asks for it."""
