"""From `outputs/` to rows, statistics, tables and pictures. Reads what runs wrote and never writes into a run's directory."""
