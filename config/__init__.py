"""The project around the two apps: settings, URLs and the demo."""
