"""What somebody wants to know at once: admissions, visits, gaps, thresholds, failures; told by webhook or mail."""
