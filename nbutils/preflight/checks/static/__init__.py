"""What settings, sources and shapes tell, without running anything."""
