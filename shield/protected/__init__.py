"""What is protected: names and descriptions, found in prompts; pictures, found in what was drawn."""
