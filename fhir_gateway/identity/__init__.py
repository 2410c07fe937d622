"""One person behind many Patient ids."""
