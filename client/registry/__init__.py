"""From a hospital's own tables to patients: a source yields raw text cells, the codebook says what they mean."""
