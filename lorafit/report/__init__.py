"""What a person looks at: progress, the verdict on a recipe, the card of an adapter."""
