"""Multiple-choice questions made from one patient's record and public artefacts alone."""
