"""Where data comes from: endpoint registry, SMART Backend Services client, bulk export, REST search, files."""
