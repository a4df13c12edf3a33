"""What architectures are worth: trained from scratch, alone and in order."""
