"""From a report to what people and machines read: each renderer reads records and judges nothing."""
