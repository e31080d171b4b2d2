"""Where rows come from, one module per type of source."""
