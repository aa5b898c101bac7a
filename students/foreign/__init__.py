"""Other programs' formats: TensorFlow pickles, rosinality's files; ONNX out."""
