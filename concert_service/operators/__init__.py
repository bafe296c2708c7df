"""The API keys of operators, and the audit log of what they did."""
