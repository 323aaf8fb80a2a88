"""A dishonest coordinator's seat: attacks that once told of a patient, and must not."""
