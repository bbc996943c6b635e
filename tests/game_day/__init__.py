"""Incidents with a real Prometheus: something goes wrong, its alert fires, the page is done, the alert goes."""
