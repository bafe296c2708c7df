"""The declarations and handlers of the routes, one file for each tag of the OpenAPI document."""
