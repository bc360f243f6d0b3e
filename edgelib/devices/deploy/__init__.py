"""What a deployment on a device needs: memory by part, and a runtime that has a kernel for its numbers."""
