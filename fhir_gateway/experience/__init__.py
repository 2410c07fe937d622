"""Patient experience: answers to CAHPS-type surveys, scored by provider."""
