"""What both servers share around KServe."""
