"""The page of twins beside a real decoder: its tables, its sentences, the page."""
