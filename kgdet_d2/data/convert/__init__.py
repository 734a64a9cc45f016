"""Native data sets to the compact file, and from it to official formats."""
