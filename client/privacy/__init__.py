"""What makes a release differentially private: sampling, clip, noise and the ledger of what was spent."""
