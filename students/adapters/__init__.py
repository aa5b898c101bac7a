"""Any module, a bridge to a teacher's size, a denoiser in one step, as students."""
