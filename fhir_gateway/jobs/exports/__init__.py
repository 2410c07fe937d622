"""Bulk exports: what is asked (models), where rows come from (sources), and the work itself (service)."""
