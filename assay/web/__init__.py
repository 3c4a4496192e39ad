"""The web application over a store: pages for people, and the same data as JSON under the page's URL plus `.json`."""
