"""Programs around the study: environment, container, archive, and pages that are made from files."""
