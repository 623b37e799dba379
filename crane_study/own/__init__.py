"""Work with a model and texts of a user, without a profile: relevance, sets, masks, comparison."""
