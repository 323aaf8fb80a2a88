"""What people read of a federation and its runs: status, forecast, the report's page, the exported adapter."""
