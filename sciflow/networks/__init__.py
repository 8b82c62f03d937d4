"""Parts of networks that several domains use; torch only."""
