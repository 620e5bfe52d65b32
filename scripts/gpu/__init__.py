"""What only a card can show: memory beside the estimate, and speed beside peers, on random weights at real shapes."""
