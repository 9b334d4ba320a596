"""From files to rows: pictures opened with care, rows with their origin, the processor's input."""
