"""Sections of recipes for trainings of tokenizers, a vocoder and a style model that take seconds."""

PRETRAIN = """
pretrain:
  model: {conv_dim: [16, 16, 16, 16], conv_kernel: [10, 8, 4, 4], conv_stride: [5, 8, 4, 4], hidden_size: 32,
          num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, num_conv_pos_embeddings: 8,
          num_conv_pos_embedding_groups: 2, conv_pos_batch_norm: true}
  batch_size: 4
  crop_s: 2
  num_steps: 4
  warmup_steps: 1
  mask_span_frames: 3
  validation_share: 0.3
  validate_every: 2
  checkpoint_every: 2
  log_every: 1
"""

VOCODER = """
vocoder:
  model: {num_embeddings: 20, embedding_dim: 8, model_in_dim: 8, upsample_rates: [8, 8, 10],
          upsample_kernel_sizes: [16, 16, 20], upsample_initial_channel: 16, resblock_kernel_sizes: [3],
          resblock_dilation_sizes: [[1, 3]], dur_predictor_params: {encoder_embed_dim: 8, var_pred_hidden_dim: 8}}
  batch_size: 2
  num_steps: 3
  discriminator_start: 1
  discriminator_width: 128
  validation_share: 0.3
  validation_clips: 2
  checkpoint_every: 2
  log_every: 1
  sample_every: 3
"""

PITCH = """
train_pitch:
  model: {num_codes: 8, code_dim: 8, width: 4, depth: 1}
  batch_size: 2
  crop_frames: 64
  num_steps: 4
  validation_share: 0.3
  validate_every: 2
  checkpoint_every: 2
  log_every: 1
  device: cpu
"""

STYLE = """
train_style: {num_codes: 4}
"""
