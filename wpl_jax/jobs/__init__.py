"""Jobs: from flags and configurations to searches and reports."""
