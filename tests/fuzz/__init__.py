"""Long random runs against one part each: ``make fuzz``. Their short forms are part of the tests."""
