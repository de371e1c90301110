"""The schema of the coordinator's database, revision by revision."""
