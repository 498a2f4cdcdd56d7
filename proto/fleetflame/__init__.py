"""The contract between agents and aggregators. Imports neither side, opens nothing."""
