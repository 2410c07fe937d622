"""The edits: a module for each family, with its :data:`EDITS` in the order in which findings are told."""
