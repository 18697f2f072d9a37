"""Where units come from: one query turns a source into cells."""
