"""What a chapter shows: figures, tables, sentences made from tests; publishing."""
