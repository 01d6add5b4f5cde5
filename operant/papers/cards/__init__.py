"""One executable card per file: `PAPER`, an `operant.papers.Paper`."""
