"""What schemas are made of: their base class, the kinds of fields, the models and data that a chapter takes."""
