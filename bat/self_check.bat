@if not exist "%~dp0..\.venv\Scripts\python.exe" echo [ERROR] Run bat\start_model_training.bat --games 1 first; it sets up what is missing.& exit /b 1
@"%~dp0..\.venv\Scripts\python.exe" "%~dp0..\tools\test_background_training.py" %*
@set "exit_code=%errorlevel%"
@if "%~1"=="" if not defined NO_PAUSE pause
@exit /b %exit_code%
