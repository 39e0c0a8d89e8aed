"""From `outputs/` to rows, statistics, tables and pictures. It never writes into a run's directory."""
